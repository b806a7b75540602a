"""The entry: `python -m src.main`, see `--help`."""

from meguri import main

if __name__ == "__main__":
    main(__file__)
