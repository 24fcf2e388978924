"""Tests; packages mirror `lfvd` and `tune`, `helpers` is what several of them use."""
