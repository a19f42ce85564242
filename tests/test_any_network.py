"""Networks from other hands: into a conditional network and back."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
common = importlib.import_module("common")
any_network = importlib.import_module("any_network")
FAST = {
    "torch.nn TransformerEncoder",
    "torchvision squeezenet1_1",
    "torchvision VisionTransformer",
    "torchvision VisionTransformer, norms too",
    "monai UNet, norms too",
    "monai DynUNet",
    "voxelmorph VxmPairwise",
}
REFUSED = {"torchvision swin_t": r"layer features\.1\.0\.attn\.(qkv|proj): the network reads its weight"}


def subjects():
    for name in any_network.SUBJECTS:
        yield pytest.param(name, marks=() if name in FAST else pytest.mark.slow)


@pytest.mark.parametrize("name", list(subjects()))
def test_networks_are_told_a_context_and_come_back(name):
    library = name.split(" ")[0]
    if library != "torch.nn":
        pytest.importorskip(library)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            any_network.round_trip(any_network.SUBJECTS[name])
        return
    outcome = any_network.round_trip(any_network.SUBJECTS[name])
    assert 0 < outcome.generated[0] <= outcome.generated[1]
    assert outcome.start < 1e-5
    # of so many layers with batches of four to normalise by, ten steps of that length lead anywhere
    assert outcome.losses[1] < outcome.losses[0] or name == "torchvision densenet121"
    assert outcome.baked < 1e-4


def test_rows_are_written_into_the_table_between_its_marks(tmp_path, capsys):
    page = tmp_path / "page.md"
    kept = "| voxelmorph VxmPairwise | kept |"
    page.write_text(f"before\n<!-- networks -->\n{kept}\n<!-- end -->\nafter\n", encoding="utf-8")
    any_network.main(any_network.AnyNetwork("TransformerEncoder", str(page)))
    before, _, header, _, row, *after = page.read_text(encoding="utf-8").splitlines()
    assert (before, after) == ("before", [kept, "<!-- end -->", "after"])
    assert header.startswith("| network |")
    assert row.startswith("| torch.nn TransformerEncoder | 4 x 7 x 32 | 6 of 10 |")
    assert row in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    (
        (("--only", "alexnet"), "no network has 'alexnet'"),
        (("--only", "TransformerEncoder", "--page", __file__), "has no place for the table"),
    ),
)
def test_bad_flags_end_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        common.command(any_network.main, any_network.AnyNetwork, flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
