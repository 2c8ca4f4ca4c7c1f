"""The domain's values: frozen dataclasses and enums, one noun a file. They import nothing of ours."""
