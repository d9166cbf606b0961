"""Writes generated scenes in official layouts."""

from setok.data.scenes.layouts import main

if __name__ == "__main__":
    raise SystemExit(main())
