"""Judges the finders on the annotated fields that they had not seen."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def detections(inputs, folder: Path):
    """Puts what was found beside what was annotated, field by field."""
    import pandas as pd

    from glomflow.evaluation.detection import FieldDetections
    from glomflow.imaging.annotations import read_outlines
    from glomflow.imaging.found import found_outlines
    from glomflow.tables import FINDER_IMAGES, FOUND, SEARCHED, read_table

    fields = read_table(inputs.fields, FINDER_IMAGES).set_index("image")
    searched = pd.concat([read_table(path, SEARCHED) for path in inputs.searched])
    found = pd.concat([read_table(path, FOUND) for path in inputs.found])
    outlines, scores = found_outlines(found), found.groupby("image")["score"].apply(list).to_dict()
    for row in searched[searched["image"].isin(fields.index)].itertuples():
        field = fields.loc[row.image]
        size = int(field.width), int(field.height)
        annotated = read_outlines(folder / field.annotation, image_size=size, image_name=field.path)
        yield FieldDetections(
            image=row.image,
            patient=row.patient,
            slide=row.slide,
            fold=row.fold,
            width=float(field.width),
            height=float(field.height),
            um_per_px=float(field.um_per_px),
            annotated=[outline.polygon for outline in annotated],
            found=[outline.polygon for outline in outlines.get(row.image, [])],
            scores=scores.get(row.image, []),
        )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.config import Evaluation
        from glomflow.evaluation.detection_summary import finder_summary
        from glomflow.tables import FINDER_FOLDS, read_table

        summary = finder_summary(
            list(detections(snakemake.input, folder)),
            read_table(snakemake.input.folds, FINDER_FOLDS),
            Evaluation(**snakemake.params.settings),
            seed=snakemake.params.seed,
        )
        summary.write(Path(snakemake.output[0]).parent)
