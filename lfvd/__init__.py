"""LFVD: multimodal emotion recognition in conversation (language, audio, visual)."""

__version__ = "0.1.0"
