"""Processes that load samples: how they end."""

import sys

from src.sampling import loader


def test_a_process_whose_parent_is_gone_ends_without_a_traceback(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))
    loader._without_last_words(0)
    for error in (BrokenPipeError(), ConnectionResetError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert shown == [ValueError]
