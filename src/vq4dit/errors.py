"""The exceptions that vq4dit raises on purpose.

Each message names what is wrong, what was found, what was needed, and what to do next.
"""


class Vq4ditError(Exception):
    """Base of all errors that a user can cause and mend; the command line prints it as one line."""


class ShapeError(Vq4ditError, ValueError):
    """A tensor or a layer has a shape that the operation cannot take."""


class ArtifactError(Vq4ditError, ValueError):
    """A checkpoint, artifact, manifest or model file is damaged, foreign or inconsistent."""


class OptionError(Vq4ditError, ValueError):
    """A value given by the caller (label, step count, sampler name, ...) is out of range."""


class BackendUnavailable(Vq4ditError, RuntimeError):
    """A module, library or device that the request needs is missing on this machine."""


class Cancelled(Vq4ditError):
    """The caller's own event asked a running call to end; nothing is broken."""
