"""`python -m reasonkit`, the same as the console script."""

from reasonkit.cli.app import main

if __name__ == "__main__":
    main()
