"""The network that a Trainer of Lightning trains, and its compressor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from raycompress import catalog
from raycompress.compressors.create import create_compressor
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.compressors.saving.witness import Fingerprint, same
from raycompress.integrations import checkpoints
from raycompress.integrations.compressing import cuts_channels, refuse_rounds, slices_now
from raycompress.script.report import save_model

CALL = "compress_trainer"
"""The function that a script calls."""

OF_ITS_OWN = "call create_compressor(module.net, config) with a loop of your own"


class ModelInTraining:
    """A model that is compressed, trained by somebody else's loop, and saved.

    Parameters
    ----------
    network, config, dummy_input
        As of `raycompress.create_compressor`.
    evaluator
        evaluator(model) of the Trainer, where it has one.
    calibration
        Returns the training data, for a compressor that cannot do without.
    arguments
        Further arguments of `raycompress.create_compressor`; those that the Trainer gives are left out.

    Attributes
    ----------
    compressor
        What `raycompress.create_compressor` returned.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Mapping[str, Any],
        dummy_input: Any,
        *,
        evaluator: Callable[[nn.Module], float] | None,
        calibration: Callable[[], Iterable[Any]],
        arguments: Mapping[str, Any],
    ) -> None:
        self._config, self._entry = config, catalog.find(str(config.get("compressor")), "torch")
        refuse_rounds(self._entry, CALL, f"{OF_ITS_OWN}, in each of its rounds")
        given: dict[str, Any] = {} if evaluator is None else {"evaluator": evaluator}
        wanted = None if self._entry is None else self._entry.argument("calibration")
        if wanted is not None and wanted.required and "calibration" not in arguments:
            given["calibration"] = calibration()
        self.compressor = create_compressor(network, config, dummy_input=dummy_input, **{**given, **arguments})
        self._evaluated: Fingerprint | None = None

    def compress(self, record: Mapping[str, Any] | None) -> None:
        """Compress the network, and slice it where that can be done before it is trained.

        Parameters
        ----------
        record
            What was removed of the network of a checkpoint, which is removed here as well, in the place of choosing
            anew; see `raycompress.integrations.checkpoints.record_of`.

        Raises
        ------
        CompressionError
            The compressor cannot work on the network.
        """
        self.compressor.compress()
        slices = slices_now(self.compressor, self._entry, self._config)
        if record is not None and hasattr(self.compressor, "restore"):
            checkpoints.remove(record, self.compressor)
            slices = bool(record["kept"])
        if slices:
            self.compressor.apply_speedup()

    def note_evaluation(self) -> None:
        """Note that the model is reported as it is now."""
        self._evaluated = fingerprint(self.compressor.model)

    def forget_evaluation(self) -> None:
        """Note that what was evaluated does not count."""
        self._evaluated = None

    @property
    def is_evaluated(self) -> bool:
        """Whether the model, as it is now, was reported."""
        return self._evaluated is not None and same(self._evaluated, fingerprint(self.compressor.model))

    def slice(self) -> None:
        """Cut out what is held at zero, and was not cut out before."""
        if cuts_channels(self._entry):
            self.compressor.apply_speedup()
        self.compressor.step()

    def save_in_trial(self) -> None:
        """Save the model into the bundle of the trial that this process runs."""
        save_model(self.compressor.export_model, "model.pth")
