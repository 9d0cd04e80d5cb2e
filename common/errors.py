"""Errors whose message is for the user: one line that says what, where and what to do, and an exit code."""

from __future__ import annotations


class UserError(Exception):
    """A stage failed for a reason the user can act on."""

    exit_code = 1


class ConfigError(UserError):
    """A config file, an override or the command line is wrong."""

    exit_code = 2


class MissingArtifact(UserError):
    """An upstream artifact has not been made yet; the message names the command that makes it."""

    exit_code = 3


class CorruptArtifact(UserError):
    """A file of a finished artifact is not what its manifest says."""
