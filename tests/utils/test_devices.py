"""Choosing the default device."""

import torch

from xvit.utils.devices import default_device


def test_each_process_gets_its_own_accelerator(monkeypatch):
    assert default_device() == torch.device("cpu")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    assert default_device() == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert default_device() == torch.device("cuda:3")
