"""`hodor doctor`: what a mask file holds."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from hodor.commands.options import parse


@dataclass(frozen=True)
class Doctor:
    """Tell what mask files hold: format, values, objects, what would be mended, and the verdict."""

    files: Positional[tuple[Path, ...]]
    """Masks: pictures, folders, COCO or labelme JSON."""
    image: str | None = None
    """Which picture's masks to take from a COCO file with several: its file name or id."""

    def run(self) -> int:
        from hodor.mask_files import doctor

        if not self.files:
            raise ValueError("no file: want hodor doctor FILE ...")
        refused = False
        for file in self.files:
            lines = doctor.examine(file, image=self.image)
            print("\n".join(lines))
            refused |= lines[-1].startswith("refused")
        return 2 if refused else 0


def main(argv: list[str]) -> int:
    return parse(Doctor, "doctor", argv)
