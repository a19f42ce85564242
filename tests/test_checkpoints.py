import os
import pickle
import zipfile

import pytest
import torch

import noise_test
import plot_conv_weights
from hyperconv import MNISTClassifier, cli
from hyperconv.errors import InputError


class RunsCode:
    """Unpickling this makes a file: the harmless twin of an attack."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.fixture
def saved(tmp_path):
    model = MNISTClassifier("hyper", kernel_size=3, hidden=(8, 4))
    path = tmp_path / "good.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    return model, path


def test_round_trip(saved):
    model, path = saved
    loaded = MNISTClassifier.load_from_checkpoint(path)
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    assert loaded.hparams == model.hparams


@pytest.mark.parametrize("new_zip_format", (True, False))
def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(tmp_path, saved, new_zip_format):
    trap, evil = tmp_path / "trap", tmp_path / "evil.ckpt"
    content = {"state_dict": saved[0].state_dict(), "hyper_parameters": RunsCode(trap)}
    torch.save(content, evil, _use_new_zipfile_serialization=new_zip_format)
    with pytest.raises(InputError, match="could run code: refused"):
        MNISTClassifier.load_from_checkpoint(evil)
    assert not trap.exists()
    torch.load(evil, weights_only=False)
    assert trap.exists(), "the trap itself does not work, so this test shows nothing"


def bad_checkpoints(tmp_path, good):
    content = torch.load(good, weights_only=True)
    raw = good.read_bytes()

    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    def save(name, value):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    yield tmp_path / "missing.ckpt", "there is no checkpoint"
    yield write("empty.ckpt", b""), "is empty"
    yield write("truncated.ckpt", raw[: len(raw) // 2]), "truncated, damaged or no checkpoint"
    yield write("cut.ckpt", raw[:-1]), "truncated, damaged or no checkpoint"
    yield write("text.ckpt", b"epoch,step\n0,1\n"), "truncated, damaged or no checkpoint"
    yield write("pickle.ckpt", pickle.dumps({"a": 1})), "checkpoint"
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    yield tmp_path / "other.ckpt", "truncated, damaged or no checkpoint"
    yield save("tensor.ckpt", torch.zeros(3)), "holds a Tensor"
    yield save("foreign.ckpt", {"model": {}}), "no checkpoint of this package"
    settings = {**content["hyper_parameters"], "kernel_size": 5, "hidden": [8, 5]}
    yield save("wider.ckpt", {**content, "hyper_parameters": settings}), "another architecture"
    settings = {**content["hyper_parameters"], "layers": 50}
    yield save("newer.ckpt", {**content, "hyper_parameters": settings}), "another architecture"
    settings = {**content["hyper_parameters"], "conv": "deformable"}
    yield save("unknown.ckpt", {**content, "hyper_parameters": settings}), "another architecture"


def test_unusable_checkpoints_end_with_code_two_and_one_line(tmp_path, saved, capsys):
    _, good = saved
    for path, message in bad_checkpoints(tmp_path, good):
        out = tmp_path / "out"
        for main, settings in (
            (noise_test.main, noise_test.NoiseTest),
            (plot_conv_weights.main, plot_conv_weights.ConvWeights),
        ):
            with pytest.raises(SystemExit) as stop:
                cli.run(main, settings, ["--hyper", str(path), "--normal", str(path), "--out", str(out)])
            err = capsys.readouterr().err
            assert stop.value.code == 2, path
            assert message in err, path
            assert len(err.splitlines()) == 1, err
            assert path.name in err
            assert not out.exists()


def test_arms_given_the_wrong_way_round_are_noticed(tmp_path, saved, capsys):
    _, good = saved
    with pytest.raises(SystemExit) as stop:
        cli.run(noise_test.main, noise_test.NoiseTest, ["--normal", str(good), "--hyper", str(good)])
    assert stop.value.code == 2
    assert "holds a hyper network" in capsys.readouterr().err


def test_weights_left_over_are_refused_unless_asked_for(tmp_path, saved):
    _, good = saved
    content = torch.load(good, weights_only=True)
    content["state_dict"]["extra"] = torch.zeros(1)
    torch.save(content, tmp_path / "extra.ckpt")
    with pytest.raises(InputError, match="another architecture"):
        MNISTClassifier.load_from_checkpoint(tmp_path / "extra.ckpt")
    assert MNISTClassifier.load_from_checkpoint(tmp_path / "extra.ckpt", strict=False).hparams["conv"] == "hyper"
