"""One network trained, kept and tested: everything between a LightningModule and its figures."""

import contextlib
import ctypes
import logging
import math
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader

from ..errors import InputError
from ..files import renamed_into_place
from .checkpoints import BEST, LAST, check_resumable, read_checkpoint
from .learner import Learner, NonFiniteLoss
from .metrics_log import MetricsLog
from .objectives import Metric, Objective
from .progress import RunProgress

# mallopt's names for them
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Loaders:
    """What a network is trained on, chosen by, and reported on.

    Processes that train together each go through all of the held-out splits.

    Attributes:
        test: None while settings are chosen, so that nothing is known of it.
    """

    train: DataLoader
    validation: DataLoader
    test: DataLoader | None


@dataclass(frozen=True)
class Report:
    """Figures of one trained network.

    Attributes:
        parameters: of the network.
        epochs: that it was trained for.
        seconds: of training, or of evaluation where nothing is trained.
        figures: of the best checkpoint, by split (validation, test) and column of the objective's metrics.
    """

    parameters: int
    epochs: int
    seconds: float
    figures: Mapping[tuple[str, str], float]


def fit(
    model: Learner,
    loaders: Loaders,
    folder: Path,
    *,
    title: str,
    resume: bool = False,
    compile: Literal["auto", "yes", "no"] = "auto",
    **trainer_options: Any,
) -> Report:
    """Train a network, keep the checkpoint that the objective chooses, and test that one, which ``model`` is then.

    A network without parameters to train is evaluated only.

    Args:
        folder: receives ``metrics.csv``, ``best.ckpt`` (weights only) and ``last.ckpt`` (all that resuming needs).
        title: shown beside the progress bar.
        resume: continue from ``last.ckpt`` where there is one, to the result of an uninterrupted run.
        compile: run training through torch.compile; ``auto``: on a GPU only, since on a CPU the minute that it
            takes is about what it saves.
        trainer_options: for ``pl.Trainer``: accelerator, devices, strategy, precision.

    Raises:
        InputError: a damaged ``last.ckpt``.
        NonFiniteLoss: training diverged; the checkpoints of the last good epoch are kept.
    """
    keep_freed_memory()
    columns = [metric.column for metric in model.objective.all_metrics]
    with warnings.catch_warnings():
        _silence_lightning()
        if any(parameter.requires_grad for parameter in model.parameters()):
            trainer, chosen, epochs, seconds = _train(model, loaders, folder, title, resume, compile, trainer_options)
        else:
            trainer, chosen, epochs, seconds = _evaluate(model, loaders, folder, trainer_options)
        figures = {("validation", column): chosen[f"val_{column}"] for column in columns}
        if loaders.test is not None:
            (tested,) = trainer.test(model, loaders.test, verbose=False)
            figures |= {("test", column): tested[f"test_{column}"] for column in columns}
    return Report(sum(parameter.numel() for parameter in model.parameters()), epochs, seconds, figures)


class _Fitted(NamedTuple):
    """What trained, and of what it trained the validation figures, epochs and seconds."""

    trainer: pl.Trainer
    chosen: Mapping[str, float]
    epochs: int
    seconds: float


def _train(
    model: Learner,
    loaders: Loaders,
    folder: Path,
    title: str,
    resume: bool,
    compile: Literal["auto", "yes", "no"],
    options: Mapping[str, Any],
) -> _Fitted:
    recipe, objective = model.recipe, model.objective
    devices = options.get("devices", 1)
    steps_an_epoch = len(loaders.train) // devices
    if not steps_an_epoch:
        raise InputError(f"{len(loaders.train)} batches of {recipe.batch_size} are too few for {devices} devices")
    callbacks = [
        FollowParent(),
        RunProgress(title, objective.metrics[0]),
        CompileTraining(compile),
        Checkpoints(folder, objective.chooser, recipe.patience),
    ]
    trainer = _trainer(
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.clip,
        callbacks=callbacks,
        log_every_n_steps=min(50, steps_an_epoch),
        **options,
    )
    last = folder / LAST
    resume_from = last if resume and last.exists() else None
    resume_at = check_resumable(folder, model, trainer, steps_an_epoch) if resume_from else 0
    trainer.logger = _log(folder, objective, resume_at)
    try:
        trainer.fit(model, loaders.train, loaders.validation, ckpt_path=resume_from, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop
    except ProcessRaisedException as error:
        _raise_as_here(error)
    # from files, since with several processes this one has not trained
    best, ended = read_checkpoint(folder / BEST), read_checkpoint(last)
    model.load_state_dict(best["state_dict"])
    return _Fitted(
        trainer, best["figures"], ended["epoch"] + 1, ended["callbacks"][Checkpoints.__qualname__]["seconds"]
    )


def _evaluate(model: Learner, loaders: Loaders, folder: Path, options: Mapping[str, Any]) -> _Fitted:
    trainer = _trainer(callbacks=[FollowParent()], **options)
    trainer.logger = _log(folder, model.objective)
    began = time.monotonic()
    (seen,) = trainer.validate(model, loaders.validation, verbose=False)
    seconds = time.monotonic() - began
    made = {"epoch": 0, "global_step": 0, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    RenamingCheckpointIO().save_checkpoint({**made, "figures": seen}, folder / BEST)
    return _Fitted(trainer, seen, epochs=0, seconds=seconds)


def _trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        deterministic="warn" if torch.cuda.is_available() else None,
        use_distributed_sampler=False,
        plugins=[RenamingCheckpointIO()],
        **options,
    )


def _log(folder: Path, objective: Objective, resume_at: int = 0) -> MetricsLog:
    return MetricsLog(folder, [metric.column for metric in objective.all_metrics], resume_at)


def check_trainer(**options: Any) -> None:
    """Raise InputError where Lightning can make no trainer of these options, as they are, on this machine."""
    given = ", ".join(f"{name} {value}" for name, value in options.items())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(logger=False, enable_checkpointing=False, **options)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise InputError(f"no training is possible with {given}: {str(error).splitlines()[0]}") from error
    if trainer.precision.startswith("bf16") and "bf16" not in str(options.get("precision")):
        raise InputError(f"no training is possible with {given}: here it would be {trainer.precision}; ask for that")


class FollowParent(pl.Callback):
    """Ends the processes of several devices when the one that started them is gone, however that came."""

    def __init__(self) -> None:
        self._parent_pid = os.getpid()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == self._parent_pid:
            _silence_lightning()
            threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


class CompileTraining(pl.Callback):
    """Compiles in the process that trains, since compiled code cannot be sent to another."""

    def __init__(self, when: Literal["auto", "yes", "no"]) -> None:
        self.when = when

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if self.when == "yes" or (self.when == "auto" and on_gpu):
            assert isinstance(pl_module, Learner)
            pl_module.compile_training()


class RenamingCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; Lightning's own way may copy it there bit by bit."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with renamed_into_place(Path(path)) as beside:
            torch.save(checkpoint, beside)


class Checkpoints(pl.Callback):
    """Keeps each epoch's checkpoint and the best one's weights; stops once no epoch has been better for a while.

    A run that had stopped so stays stopped when it is resumed.

    Args:
        folder: where ``best.ckpt`` and ``last.ckpt`` are written; a run's folder may be moved before it is resumed.
        chooser: the metric on validation data whose best value is kept.
        patience: epochs without a better one before training stops; None to never stop so.
    """

    def __init__(self, folder: Path, chooser: Metric, patience: int | None) -> None:
        self.folder = folder
        self.chooser = chooser
        self.patience = patience
        self.best = math.nan
        self.waited = 0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited, self.seconds = (state_dict[name] for name in ("best", "waited", "seconds"))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_look = time.monotonic()
        trainer.should_stop = self._has_waited()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = time.monotonic()
        self.seconds, self._last_look = self.seconds + now - self._last_look, now
        value = float(trainer.callback_metrics[f"val_{self.chooser.column}"])
        if trainer.current_epoch == 0 or self.chooser.is_better(value, self.best):
            self.best, self.waited = value, 0
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        else:
            self.waited += 1
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        trainer.should_stop = trainer.should_stop or self._has_waited()

    def _has_waited(self) -> bool:
        return self.patience is not None and self.waited >= self.patience


def _raise_as_here(error: ProcessRaisedException) -> NoReturn:
    """What another process raised is known by the last line of its traceback."""
    raised, _, message = str(error).strip().splitlines()[-1].partition(": ")
    if raised.endswith(NonFiniteLoss.__name__):
        raise NonFiniteLoss(message) from error
    raise error


def keep_freed_memory() -> None:
    """Let glibc keep the memory that one step frees for the next one, instead of getting it page by page anew.

    With its defaults, activations of some megabytes are unmapped and mapped again: an eighth of a step's time.
    """
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # glibc refuses more
        allocator.mallopt(_M_TRIM_THRESHOLD, -1)


def _silence_lightning() -> None:
    """Its advice is about worker processes for data that lies in memory here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", advice)
