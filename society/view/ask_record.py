"""Where questions from the browser are kept, if the user asks for it: a run of its own.

It has the form of the debates that `society serve --store` keeps, so `society sql`, the report and
the viewer read it.
"""

from __future__ import annotations

from contextlib import ExitStack

from society.config.load import ConfigError
from society.runs.folder import RunFolder, locate_run
from society.runs.status import allow_readers
from society.view.catalog import Library
from society.view.endpoint.forms import list_forms
from society.view.endpoint.opening import StoredSociety
from society.view.endpoint.record import StoredDebates, open_record


class AskRecord:
    """The run `folder`, which keeps what the run `source` is asked.

        record = AskRecord(source, folder)
        debates = record.open(stored)
        record.close()

    Its file is open while the models are: what they are asked next goes on in it, and a disk that
    was full gets another try.
    """

    def __init__(self, source: RunFolder, folder: RunFolder) -> None:
        """Raises `ConfigError` if both are one."""
        if source.name == folder.name:
            raise ConfigError(
                f"--store {folder.name}: that is the run that is asked, and stays as it is; choose "
                "another name"
            )
        self.source = source
        self.folder = folder
        self._open = ExitStack()

    def open(self, stored: StoredSociety) -> StoredDebates:
        """Open the file for the debates of this society, and let others read it meanwhile.

        Raises `ConfigError` for a run that holds anything else, and the store's errors.
        """
        self.close()
        forms = list_forms(stored.arm).values()
        with ExitStack() as opening:
            store = open_record(self.folder, stored.config, stored.arm, forms, list(stored.models))
            opening.callback(store.close)
            opening.enter_context(allow_readers(self.folder, store, lambda text: None))
            self._open = opening.pop_all()
        return StoredDebates(store, stored.config.task.name)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._open.close()


def plan_record(library: Library, name: str) -> AskRecord:
    """What keeps the questions to the only run of `library` in a run of this name.

    Raises `ConfigError` where more than one run is shown: their societies are different ones.
    """
    shown = library.names
    if len(shown) != 1:
        raise ConfigError(
            f"--store {name} keeps what the society of one run is asked; name that run: society "
            f"view RUN --store {name}"
        )
    folder = locate_run(library.runs, name)
    return AskRecord(library.folder(shown[0]), folder)
