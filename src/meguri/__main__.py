"""``python -m meguri``: the command line."""

from meguri.cli import main

if __name__ == "__main__":
    main()
