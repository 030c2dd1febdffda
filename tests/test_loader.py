"""Processes that load samples: how they end."""

import sys

import torch

from src.sampling import loader


def test_a_process_whose_parent_is_gone_ends_without_a_traceback(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))
    loader._without_last_words(0)
    for error in (BrokenPipeError(), ConnectionResetError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert shown == [ValueError]


def test_more_processes_than_cores_are_nothing_to_warn_of(recwarn):
    rows = {(0, row): {"image": torch.zeros(1)} for row in range(4)}  # by epoch and row
    assert loader.make_loader(rows, 2, 1000).num_workers == 1000
    assert not recwarn.list
