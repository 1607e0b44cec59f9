"""Write README's tables of the reference runs, from results/ alone (`make tables`)."""

from pathlib import Path

import pandas as pd

from mura.evaluation import reference_table

README = Path(__file__).resolve().parents[1] / "README.md"
COLUMNS = {
    "phantom": ["start", "px", "epochs", "minutes", "κ", "AUROC", "pointing game (chance)"],
    "FracAtlas": [
        *("start", "studies", "upper extremity", "AUROC, all", "within body parts"),
        *("without hardware", "runs alone"),
    ],
}


def markdown(table: pd.DataFrame) -> str:
    """Return a table of strings, its index first, as Markdown."""
    rows = [[table.index.name, *table.columns], ["---"] * (table.shape[1] + 1)]
    rows += [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_tables(text: str) -> str:
    """Return a text with each table anew between its comments, <!-- phantom --> and so on."""
    for data, columns in COLUMNS.items():
        start, end = f"<!-- {data} -->\n", f"<!-- /{data} -->"
        before, rest = text.split(start)
        text = before + start + markdown(reference_table(data)[columns]) + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
