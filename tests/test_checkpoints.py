import os
import pickle
import shutil
import time
import zipfile
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import run_script
from learners import trained as train_small

import noise_test
import plot_conv_weights
from hyperconv import MNISTClassifier
from hyperconv.errors import InputError
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.digits import DigitsOptions
from hyperconv.experiments.trained import load_trained, outline, trained
from hyperconv.training.objectives import CLASSIFICATION


class RunsCode:
    """Unpickling this makes a file: the harmless twin of an attack."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def content(model, **changes):
    return {"epoch": 1, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **changes}


@pytest.fixture
def saved(tmp_path):
    model = MNISTClassifier("hyper", kernel_size=3, hidden=(8, 4))
    path = tmp_path / "good.ckpt"
    torch.save(content(model), path)
    return model, path


def test_a_network_comes_back_as_it_was(saved):
    model, path = saved
    images = torch.rand(3, 1, 28, 28)
    expected = model.eval()(images)
    assert torch.equal(load_trained(path)(images), expected)
    loaded = MNISTClassifier.load_from_checkpoint(path)
    assert torch.equal(loaded.eval()(images), expected)
    assert loaded.hparams == model.hparams
    found = trained(path)
    assert not found.network.training
    assert (found.experiment, found.arm, found.data, found.epoch) == ("digits", "hyper", "mnist", 1)
    assert found.options == DigitsOptions(conv="hyper", kernel_size=3, hidden=(8, 4), norm="decorrelated")


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(0)
    load_trained(saved[1])
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)


def test_a_checkpoint_of_the_first_version_is_read(tmp_path, saved):
    model, _ = saved
    first = {"conv": "hyper", "kernel_size": 3, "hidden": [8, 4], "norm": "decorrelated", "recipe": {}, "data": "mnist"}
    torch.save(content(model, hyper_parameters=first), tmp_path / "first.ckpt")
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(load_trained(tmp_path / "first.ckpt")(images), model.eval()(images))


@pytest.mark.parametrize(
    "renamed",
    (
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: name.replace("network.", "network._orig_mod.", 1),
        lambda name: f"module._orig_mod.{name}",
    ),
)
def test_names_that_compile_and_data_parallel_wrappers_give_are_known(tmp_path, saved, renamed):
    model, _ = saved
    weights = {renamed(name): weight for name, weight in model.state_dict().items()}
    torch.save(content(model, state_dict=weights), tmp_path / "wrapped.ckpt")
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(load_trained(tmp_path / "wrapped.ckpt")(images), model.eval()(images))


@pytest.mark.parametrize(
    "place",
    ("cpu", torch.device("cpu"), None, {"cuda:0": "cpu"}, lambda storage, location: storage),
    ids=("name", "device", "as saved", "dictionary", "function"),
)
def test_places_are_told_as_torch_load_takes_them(saved, place):
    model, path = saved
    for loaded in (load_trained(path, place), MNISTClassifier.load_from_checkpoint(path, place)):
        assert {parameter.device for parameter in loaded.parameters()} == {torch.device("cpu")}
        assert torch.equal(next(loaded.parameters()), next(model.parameters()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("place", ("cuda", "abacus", {"cpu": "cuda:0"}))
def test_a_device_that_is_not_there_is_not_called_damage(saved, place):
    with pytest.raises(InputError, match="but onto the cpu") as raised:
        load_trained(saved[1], place)
    assert "damaged" not in str(raised.value)


@pytest.mark.parametrize("new_zip_format", (True, False))
def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(tmp_path, saved, new_zip_format):
    trap, evil = tmp_path / "trap", tmp_path / "evil.ckpt"
    told = content(saved[0], hyper_parameters=RunsCode(trap))
    torch.save(told, evil, _use_new_zipfile_serialization=new_zip_format)
    with pytest.raises(InputError, match="could run code: refused"):
        load_trained(evil)
    assert not trap.exists()
    torch.load(evil, weights_only=False)
    assert trap.exists(), "the trap itself does not work, so this test shows nothing"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def bad_checkpoints(folder, model, good):
    raw = good.read_bytes()

    def write(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    def save(name, value):
        torch.save(value, folder / name)
        return folder / name

    def told(name, **changes):
        described = {**model.hparams, **changes}
        return save(name, content(model, hyper_parameters=described))

    def with_options(name, **changes):
        return told(name, options={**model.hparams["options"], **changes})

    def with_weights(name, change):
        weights = model.state_dict()
        change(weights)
        return save(name, content(model, state_dict=weights))

    first = "network.0.weight"
    yield folder / "missing.ckpt", "there is no checkpoint"
    yield write("empty.ckpt", b""), "is empty"
    yield write("truncated.ckpt", raw[: len(raw) // 2]), "truncated, damaged or no checkpoint"
    yield write("cut.ckpt", raw[:-1]), "truncated, damaged or no checkpoint"
    yield write("text.ckpt", b"epoch,step\n0,1\n"), "truncated, damaged or no checkpoint"
    yield write("pointer.ckpt", POINTER), "git-lfs pointer"
    yield write("pickle.ckpt", pickle.dumps({"a": 1})), "checkpoint"
    with zipfile.ZipFile(folder / "other.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    yield folder / "other.ckpt", "truncated, damaged or no checkpoint"
    yield save("tensor.ckpt", torch.zeros(3)), "holds a Tensor"
    yield save("foreign.ckpt", {"model": {}}), "no checkpoint of this package"
    yield save("epoch.ckpt", content(model, epoch=None)), "its epoch is None"
    yield save("epochs.ckpt", content(model, epoch=-1)), "its epoch is -1"
    yield save("list.ckpt", content(model, state_dict=[1, 2])), "no checkpoint of this package"
    yield save("numbers.ckpt", content(model, state_dict={first: 1})), "more than tensors"
    yield told("arm.ckpt", arm="deformable"), "it is of the arm deformable; digits has hyper"
    yield told("experiment.ckpt", experiment="alchemy"), "it is of the experiment alchemy"
    yield told("unnamed.ckpt", experiment=["digits"]), "its experiment is ['digits']"
    yield told("seed.ckpt", seed="x"), "its seed is 'x'"
    yield told("recipe.ckpt", recipe=None), "its recipe is None"
    yield told("options.ckpt", options=None), "its options are None"
    yield with_options("newer.ckpt", layers=50), "layers"
    yield with_options("size.ckpt", kernel_size=None), "kernel_size"
    yield with_options("wider.ckpt", hidden=[8, 5]), "8x4x8 of float32, not 8x5x8"
    yield with_options("deeper.ckpt", hidden=[8, 4, 4]), "another architecture"
    yield with_weights("extra.ckpt", lambda weights: weights.update(extra=torch.zeros(1))), "extra too many"
    yield with_weights("lacking.ckpt", lambda weights: weights.pop(first)), "it lacks 0.weight"
    yield with_weights("half.ckpt", lambda weights: weights.update({first: weights[first].half()})), "of float16, not"
    yield with_weights("meta.ckpt", lambda weights: weights.update({first: weights[first].to("meta")})), "no numbers"
    # settings that would take the machine's memory, or minutes
    yield with_options("large.ckpt", kernel_size=999), "another architecture"
    yield with_options("wide.ckpt", hidden=[10**6, 10**6]), "another architecture"
    yield with_options("huge.ckpt", hidden=[2**31 - 1, 2**31 - 1]), "another architecture"
    yield with_options("deep.ckpt", hidden=[8] * 900), "parameters"
    yield with_options("endless.ckpt", hidden=[8] * 10**6), "another architecture"


def test_unusable_checkpoints_are_refused_in_a_line_and_soon(tmp_path, saved):
    model, good = saved
    for path, message in bad_checkpoints(tmp_path, model, good):
        started = time.process_time()
        with pytest.raises(InputError) as raised:
            trained(path)
        assert time.process_time() - started < 3, path
        assert message in str(raised.value), path
        assert len(str(raised.value).splitlines()) == 1
        assert len(str(raised.value)) < 600
        assert path.name in str(raised.value)


def test_scripts_end_with_code_two_and_a_line_and_write_nothing(tmp_path, saved, capsys):
    path = tmp_path / "cut.ckpt"
    path.write_bytes(saved[1].read_bytes()[:-1])
    for script, settings in ((noise_test, noise_test.NoiseTest), (plot_conv_weights, plot_conv_weights.ConvWeights)):
        args = ("--hyper", str(path), "--normal", str(path), "--out", str(tmp_path / "out"))
        code, _, err = run_script(capsys, script.main, settings, *args)
        assert code == 2
        assert path.name in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_arms_given_the_wrong_way_round_are_noticed(saved, capsys):
    good = str(saved[1])
    code, _, err = run_script(capsys, noise_test.main, noise_test.NoiseTest, "--normal", good, "--hyper", good)
    assert code == 2
    assert "--normal needs normal" in err


def test_another_experiments_checkpoint_is_no_digit_classifier(tmp_path):
    network = experiments()["mlp"].arms["normal"].network()
    described = {"experiment": "mlp", "arm": "normal", "options": None, "data": "mnist", "recipe": {}, "seed": 0}
    weights = {f"network.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"epoch": 0, "state_dict": weights, "hyper_parameters": described}, tmp_path / "mlp.ckpt")
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(load_trained(tmp_path / "mlp.ckpt")(images), network(images))
    with pytest.raises(InputError, match="of mlp, not of digits"):
        MNISTClassifier.load_from_checkpoint(tmp_path / "mlp.ckpt")


def test_an_outline_has_the_networks_shapes_and_bounds():
    def make():
        return torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(4)))

    made = outline(make, most_parameters=8, most_numbers=4 * 1001 * 1000)
    assert all(parameter.is_meta for parameter in made.parameters())
    assert made.state_dict().keys() == make().state_dict().keys()
    with pytest.raises(InputError, match="more than 7 parameters"):
        outline(make, most_parameters=7, most_numbers=4 * 1001 * 1000)
    with pytest.raises(InputError, match="4,004,000 numbers, more than 4,003,999"):
        outline(make, most_parameters=8, most_numbers=4 * 1001 * 1000 - 1)


def _interrupted_score(network, batch, draws):
    if draws is not None and network.current_epoch == 2:
        raise KeyboardInterrupt
    return CLASSIFICATION.score(network, batch, draws)


@pytest.fixture(scope="module", params=("one-cycle", "constant"))
def interrupted(request, tmp_path_factory):
    """How to train, a folder where it was interrupted after two of three epochs, and a whole one's report and log."""
    folder = tmp_path_factory.mktemp("runs")
    train = partial(train_small, schedule=request.param)
    whole = train(folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "cut", objective=replace(CLASSIFICATION, score=_interrupted_score))
    return train, folder / "cut", whole, (folder / "whole" / "metrics.csv").read_text()


def first_state(last):
    return last["optimizer_states"][0]["state"][0]


def shared(tensor):
    return torch.zeros(1).expand(tensor.shape)


LOOPS = "epoch_loop.automatic_optimization.optim_progress"
# what is done to a last.ckpt, and what is said of it
DAMAGES = {
    "nothing in it": (lambda last: last.clear(), "hyper_parameters is None"),
    "another seed": (lambda last: last["hyper_parameters"].update(seed=1), "hyper_parameters.seed is 1, not 0"),
    "another training": (lambda last: last["hyper_parameters"].update(data="x"), "hyper_parameters has other entries"),
    "a moment of one number": (
        lambda last: first_state(last).update(exp_avg=torch.zeros(1)),
        "exp_avg is 1 of float32, not 8x6",
    ),
    "a moment whose numbers share their place": (
        lambda last: first_state(last).update(exp_avg_sq=shared(first_state(last)["exp_avg_sq"])),
        "does not lie in memory as the parameter does",
    ),
    "a moment of another type": (
        lambda last: first_state(last).update(exp_avg=first_state(last)["exp_avg"].double()),
        "8x6 of float64",
    ),
    "a moment without numbers": (
        lambda last: first_state(last).update(exp_avg=first_state(last)["exp_avg"].to("meta")),
        "no numbers",
    ),
    "a moment that is none": (lambda last: first_state(last).update(exp_avg=None), "is a NoneType"),
    "an infinite moment": (lambda last: first_state(last)["exp_avg"].fill_(torch.inf), "is not finite"),
    "steps to come": (lambda last: first_state(last).update(step=torch.tensor(1e9)), "is of step 1000000000"),
    "a third moment": (lambda last: first_state(last).update(max_exp_avg_sq=torch.zeros(8, 6)), "too many"),
    "no states": (lambda last: last["optimizer_states"][0].update(state={}), "not one for each parameter"),
    "states of more parameters": (
        lambda last: last["optimizer_states"][0]["state"].update({99: {}}),
        "not one for each parameter",
    ),
    "another Adam": (
        lambda last: last["optimizer_states"][0]["param_groups"][0].update(amsgrad=True),
        "amsgrad is True, not False",
    ),
    "a rate in words": (
        lambda last: last["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
        "lr is fast",
    ),
    "no optimizer": (lambda last: last.pop("optimizer_states"), "optimizer_states are not those of one"),
    "two optimizers": (lambda last: last["optimizer_states"].append({}), "optimizer_states are not those of one"),
    "no schedules": (lambda last: last.pop("lr_schedulers"), "lr_schedulers is None"),
    "another schedule": (lambda last: last.update(lr_schedulers=[{"step": 3}]), "lr_schedulers"),
    "no loops": (lambda last: last.pop("loops"), "loops is None"),
    "odd loops": (lambda last: last["loops"].update(fit_loop=[]), "loops.fit_loop is a list"),
    "epochs gone by": (
        lambda last: last["loops"]["fit_loop"]["epoch_progress"]["current"].update(completed=10**9),
        "epochs done.completed is 1000000000",
    ),
    "steps gone by": (
        lambda last: last["loops"]["fit_loop"][LOOPS]["optimizer"]["step"]["total"].update(completed=0),
        "steps done.optimizations is 0, not 14",
    ),
    "no callbacks": (lambda last: last.pop("callbacks"), "callbacks is None"),
    "odd callbacks": (lambda last: last["callbacks"].update(Checkpoints=3), "callbacks.Checkpoints is 3"),
    "callbacks of another run": (lambda last: last["callbacks"].update(Other={}), "other entries: Other"),
    "no version": (lambda last: last.pop("pytorch-lightning_version"), "version is None"),
    "an odd version": (lambda last: last.update({"pytorch-lightning_version": 3}), "version is 3"),
    "no weights": (lambda last: last.pop("state_dict"), "tensors are no mapping"),
    "weights of another shape": (
        lambda last: last["state_dict"].update({"network.0.weight": torch.zeros(2)}),
        "network.0.weight is 2 of float32, not 8x6",
    ),
    "infinite weights": (lambda last: last["state_dict"]["network.0.weight"].fill_(torch.inf), "not finite"),
    "no step": (lambda last: last.pop("global_step"), "global_step is None"),
    "another step": (lambda last: last.update(global_step=3), "global_step is 3, not 14"),
    "an epoch in words": (lambda last: last.update(epoch="two"), "epoch is two"),
    "an epoch to come": (lambda last: last.update(epoch=3), "epoch is 3, not a number up to 2"),
}


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_last_checkpoint_that_this_training_did_not_write_is_not_continued_from(tmp_path, interrupted, damage):
    train, source, _, _ = interrupted
    folder = shutil.copytree(source, tmp_path / "run")
    last = torch.load(folder / "last.ckpt", weights_only=True)
    change, message = DAMAGES[damage]
    change(last)
    torch.save(last, folder / "last.ckpt")
    before = files_in(folder)
    with pytest.raises(InputError, match=r"last\.ckpt is no checkpoint that this run can continue from") as raised:
        train(folder, resume=True)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert files_in(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "there is no checkpoint"),
        (lambda best: best["hyper_parameters"].update(seed=1), "hyper_parameters.seed is 1"),
        (lambda best: best.pop("figures"), "figures is None"),
        (lambda best: best["figures"].update(val_acc="good"), "figures.val_acc is good"),
        (lambda best: best["state_dict"].popitem(), "it lacks network.2.bias"),
    ],
)
def test_a_best_checkpoint_that_this_training_did_not_write_is_noticed_before_training(
    tmp_path, interrupted, change, message
):
    train, source, _, _ = interrupted
    folder = shutil.copytree(source, tmp_path / "run")
    best = torch.load(folder / "best.ckpt", weights_only=True)
    if change:
        change(best)
        torch.save(best, folder / "best.ckpt")
    else:
        (folder / "best.ckpt").unlink()
    before = files_in(folder)
    with pytest.raises(InputError, match=r"best\.ckpt") as raised:
        train(folder, resume=True)
    assert message in str(raised.value)
    assert files_in(folder) == before


def test_an_interrupted_training_goes_on_wherever_its_folder_is(tmp_path, interrupted):
    train, source, whole, log = interrupted
    folder = shutil.copytree(source, tmp_path / "moved" / "run")
    assert seconds_apart(train(folder, resume=True)) == seconds_apart(whole)
    assert (folder / "metrics.csv").read_text() == log


def seconds_apart(report):
    return replace(report, seconds=0.0)


def cut_in_a_cell(text):
    head, row, rest = text.partition("\n1,")
    return head + row + rest[rest.index(",") :][:4] + "\n" + rest[rest.index("\n") + 1 :]


@pytest.mark.parametrize(
    "damage",
    (
        lambda text: "\ufeff" + text,
        lambda text: "",
        None,
        lambda text: text.splitlines()[0] + "\n",
        cut_in_a_cell,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "2,15,0.",
    ),
    ids=("byte order mark", "emptied", "missing", "no rows", "cut in a cell", "other line ends", "cut at its end"),
)
def test_a_log_that_was_touched_is_mended_and_changes_no_result(tmp_path, interrupted, damage):
    train, source, whole, log = interrupted
    folder = shutil.copytree(source, tmp_path / "run")
    path = folder / "metrics.csv"
    if damage:
        path.write_text(damage(path.read_text()), newline="", encoding="utf-8")
    else:
        path.unlink()
    assert seconds_apart(train(folder, resume=True)) == seconds_apart(whole)
    rows = path.read_text().splitlines()
    assert set(rows) <= set(log.splitlines())
    assert rows[0] == log.splitlines()[0]
    assert rows[-3:] == log.splitlines()[-3:]


@pytest.mark.parametrize(
    ("damage", "message"),
    (
        (lambda content: content.replace(b",", b";"), "has other columns than epoch, step, train_loss"),
        (lambda content: content.replace(b"val_acc", b"val_iou"), "has other columns"),
        (lambda content: content.replace(b"epoch", b"\xe9poque"), "is no UTF-8 text"),
        (lambda content: content[:80] + b"x" * 200_000 + content[80:], "is no table of metrics"),
    ),
    ids=("semicolons", "other columns", "Latin-1", "an endless cell"),
)
def test_a_log_of_something_else_is_not_written_over(tmp_path, interrupted, damage, message):
    train, source, _, _ = interrupted
    folder = shutil.copytree(source, tmp_path / "run")
    path = folder / "metrics.csv"
    path.write_bytes(damage(path.read_bytes()))
    before = files_in(folder)
    with pytest.raises(InputError, match=message) as raised:
        train(folder, resume=True)
    assert len(str(raised.value).splitlines()) == 1
    assert files_in(folder) == before
