"""The domain's values: frozen dataclasses and enums, one noun a file; nothing of ours above."""
