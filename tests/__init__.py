"""Tests. This file makes `tests` a package, so that one of another distribution does not take its name."""
