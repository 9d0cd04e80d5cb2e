"""Which device a model runs on."""

from __future__ import annotations

from common.errors import UserError


def check_device(device: str, setting: str) -> None:
    """Refuse an accelerator this machine lacks before gigabytes are read for it.

    Args:
        device: auto, cpu, cuda, cuda:1, mps.
        setting: the setting that names it, for the message.

    Raises:
        UserError: it is not there.
    """
    import torch

    kind, _, number = device.partition(":")
    there = {"auto": 1, "cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or (number and not number.isdigit()) or int(number or 0) >= there[kind]:
        raise UserError(f"{setting} '{device}' is not on this machine; use 'auto' or 'cpu'")


def chosen_device(device: str) -> str:
    """`auto` as the accelerator that is there, else the CPU; any other name as it is."""
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
