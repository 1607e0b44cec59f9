"""What the mirror image adds: AUROC of runs with and without `--flip`, on their validation studies.

python benchmarks/flip.py DATA RUN [RUN ...]        seconds per run
"""

import sys

from mura.evaluation import model_table, paired_differences, study_predictions
from mura.evaluation.reports import with_interval
from mura.predict import predict_data
from mura.runs import Run


def main(root: str, names: list[str]) -> None:
    print("run                  AUROC                 with --flip           difference")
    for run in map(Run.load, names):
        studies = {
            name: study_predictions(predict_data(run, root, flip))
            for name, flip in {"plain": False, "flip": True}.items()
        }
        table = model_table(studies, ["auroc"]).query("group == 'all'")
        cells = [with_interval(*row) for row in table[["value", "low", "high"]].to_numpy(float)]
        [row] = paired_differences(studies, "plain", ["auroc"]).itertuples()
        gain = with_interval(row.difference, row.low, row.high)
        print(f"{run.name:20} {'  '.join([*cells, gain])}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
