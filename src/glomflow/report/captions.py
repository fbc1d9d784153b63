"""The figures of a report: what each shows, in words.

The same captions stand in ``rules/captions/<name>.rst`` for Snakemake's own report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureText:
    """The words of a figure.

    Attributes:
        caption: What it shows and how to read it.
        alt: What is to be seen, for readers who cannot see it.
    """

    caption: str
    alt: str


FIGURES: dict[str, FigureText] = {
    "cohort_overview": FigureText(
        "Patients by diagnosis and site, and usable images per patient by modality (a dot is a patient, "
        "the bar the median).",
        "Stacked bars of patients by diagnosis and site; dots of the number of images per patient in "
        "optical microscopy, immunofluorescence and electron microscopy.",
    ),
    "worst_images": FigureText(
        "The worst images of every kind: those with a flag of poor quality, the worst first, then the least "
        "sharp of those without. Unless they are marked as left out they took part; look whether they should "
        "have.",
        "Thumbnails of the images of poorest quality, by what is wrong with them.",
    ),
    "stain_panels": FigureText(
        "Glomeruli as scanned (before) and after stain normalisation (after), drawn at random and spread "
        "over sites.",
        "Pairs of glomerulus crops before and after stain normalisation.",
    ),
    "finder_outlines": FigureText(
        "Held-out fields on which the glomerulus finder did best, middling and worst, by Dice coefficient, "
        "with the outlines annotated and found.",
        "Light micrographs with the outlines of annotated and found glomeruli.",
    ),
    "finder_precision_recall": FigureText(
        "Precision over recall of the glomerulus finder as less sure finds are let in; thick: the highest "
        "precision at that recall or more, whose mean is the average precision.",
        "Curves of precision over recall at two overlaps.",
    ),
    "finder_counts": FigureText(
        "Glomeruli found over glomeruli annotated, a point per slide; on the dashed line they are equal.",
        "Scatter plot of glomeruli found against annotated, per slide.",
    ),
    "crops_om": FigureText(
        "Glomerulus crops by diagnosis as the model sees them, drawn at random and spread over patients.",
        "Contact sheet of glomerulus crops in optical microscopy, by diagnosis.",
    ),
    "crops_im": FigureText(
        "Immunofluorescence crops by diagnosis, drawn at random and spread over patients. Colours are groups "
        "of markers, brightness is on a fixed scale.",
        "Contact sheet of immunofluorescence crops by diagnosis.",
    ),
    "crops_tem": FigureText(
        "Electron micrographs by diagnosis, drawn at random and spread over patients.",
        "Contact sheet of electron micrographs by diagnosis.",
    ),
    "lesions": FigureText(
        "Glomeruli by lesion class, drawn at random and spread over slides.",
        "Contact sheet of glomerulus crops by lesion class.",
    ),
    "training_curves": FigureText(
        "Loss during training and on the validation patients: a thin line per fold and seed, the median "
        "thick. Test patients play no part.",
        "Line plots of training and validation loss over epochs, one panel per model.",
    ),
    "confusion_matrix": FigureText(
        "Confusion matrix of all test patients: diagnosis in rows, prediction in columns; number of patients "
        "and share of the row.",
        "Confusion matrix of diagnoses and predictions.",
    ),
    "roc_curves": FigureText(
        "ROC curves of each diagnosis against the others, all test patients together.",
        "ROC curves, one per diagnosis.",
    ),
    "reliability": FigureText(
        "Reliability: the share of right predictions against the probability that the model gave them. "
        "Points below the diagonal are overconfident; larger points hold more patients.",
        "Reliability diagram above a histogram of the predicted probabilities.",
    ),
    "ablation": FigureText(
        "Accuracy of every model with its interval.",
        "Accuracy of each model as a point with an interval bar.",
    ),
    "missing_curve": FigureText(
        "Accuracy over the rate at which each modality is missing, one at least being left: the expectation "
        "over all ways of missing them, with interval bands over patients.",
        "Line plot of accuracy against the rate of missing modalities, by model.",
    ),
    "stage_confusion": FigureText(
        "Confusion matrix of the stages of membranous nephropathy: stage in rows, prediction in columns; "
        "number of patients and share of the row.",
        "Confusion matrix of stages and predictions.",
    ),
    "stage_ablation": FigureText(
        "Accuracy of every stage model with its interval.",
        "Accuracy of each stage model as a point with an interval bar.",
    ),
    "instance_panels": FigureText(
        "The electron micrographs that weigh most in the model's decision, by descending weight. "
        "Patients are drawn at random.",
        "Rows of electron micrographs with their weights.",
    ),
    "explanation_panels": FigureText(
        "What single predictions rest on. Top: the crops, TEM tiles by how much their map speaks for the "
        "predicted class. Middle: the map over the crop in grey; its scale is that of the patient and "
        "modality. Bottom: attention that other modalities pay, and how each modality moves the probability "
        "of the predicted class from its share of the training patients to what the model states. Right and "
        "wrong predictions, the first of each by a hash of the patient's name.",
        "Per patient: crops, the same with maps laid over them, and a bar per modality.",
    ),
    "explanation_checks": FigureText(
        "How far the maps can be trusted. Left: agreement with what is known, beside chance (bar). Middle: "
        "probability of the predicted class as tokens are taken away, the highest of the map first "
        "(deletion), or put into an empty patient (insertion), and in random order. Right: agreement with "
        "maps of models whose weights were drawn afresh; low means that maps depend on what was learned.",
        "Points with intervals beside chance; curves of deletion and insertion; points of agreement with "
        "randomised models.",
    ),
    "explanation_contributions": FigureText(
        "Mean contribution of each modality to the probability of the predicted class (Shapley values), with "
        "intervals over patients.",
        "Bars of contributions by predicted class and modality.",
    ),
    "few_shot_curves": FigureText(
        "Balanced accuracy over the number of labelled glomeruli per class: mean over runs, with intervals "
        "that respect slides.",
        "Line plot of balanced accuracy against the number of labelled glomeruli per class, by method.",
    ),
    "few_shot_confusion": FigureText(
        "Confusion matrix of the first method at the largest number of shots: lesion class in rows, "
        "prediction in columns; test glomeruli per run and share of the row.",
        "Confusion matrix of lesion classes.",
    ),
    "few_shot_reliability": FigureText(
        "Reliability of the few-shot methods at the largest number of shots: the share of right predictions "
        "against the probability given to them, in equal bins, the glomeruli of all runs together; bars are "
        "intervals over slides and runs, larger points hold more glomeruli. Points below the diagonal are "
        "overconfident.",
        "A reliability diagram per method, with its calibration error.",
    ),
    "similarity_maps": FigureText(
        "Cosine of each patch of a glomerulus with the text of each class, over the crop in grey; colours "
        "of a row share one scale. Last column: the text of the true class less the mean of the others, red "
        "where that is above zero. Of each class the first right and the first wrong zero-shot prediction "
        "by a hash of the crop's name. Numbers: cosine of the whole image.",
        "Per glomerulus: the crop, and the crop with a map laid over it for every class.",
    ),
}
"""The words of every figure by its name."""


def words(name: str) -> FigureText:
    """Returns the words of a figure; what stands behind a hyphen in its name says of what it is one.

    Raises:
        KeyError: There are none.
    """
    return FIGURES[name.partition("-")[0]]
