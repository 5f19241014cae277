"""What the resource knows of each hosted provider: a folder for each, and one line of each in `registry.py`.

A provider's other folder, of the same name, is below `backends/providers`: the calls. Pure: no I/O, nothing of
`backends`.
"""

from typing import Final

NAMES: Final = ("oxen", "scenario", "bfl", "octoai")
"""The folders, in the order of the documentation. As text, and tested: the models take long to import, and the command
line's help has to be there at once."""
