"""`hodor doctor`: what a mask file contains."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from hodor.commands.options import parse


@dataclass(frozen=True)
class Doctor:
    """Report what mask files contain: format, values, objects, what would be repaired, and the verdict.

    Of several files also which object of which file has which id if they are the masks of one run, or why they cannot be.
    """

    files: Positional[tuple[Path, ...]]
    """Masks: pictures, folders, COCO or labelme JSON; FILE:IMAGE names one picture of a COCO file."""
    image: str | None = None
    """Which picture of a COCO file with several: its file name or id."""

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        from hodor.mask_files import doctor, identity

        if not self.files:
            raise ValueError("expected at least one file, got none: run hodor doctor FILE ...")
        refused = False
        given = []
        for place, file in enumerate(self.files):
            path, image = doctor.split_image(str(file))
            lines = doctor.examine(path, image=image or self.image)
            print("\n".join(lines))
            refused |= lines[-1].startswith("refused")
            if not refused and len(self.files) > 1:
                given.append(identity.Given(str(file), place, doctor.read(path, image=image or self.image)))
        if len(self.files) > 1 and not refused:
            try:
                print("as masks of one run:", *identity.lines_of(identity.join(given).rows, frames=False), sep="\n")
            except ValueError as error:
                print(f"as masks of one run: refused: {error}")
                return 2
        return 2 if refused else 0


def main(argv: list[str]) -> int:
    """Run `hodor doctor` with these arguments. Returns the exit code."""
    return parse(Doctor, "doctor", argv)
