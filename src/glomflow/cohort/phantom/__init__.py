"""The phantom cohort: synthetic renal biopsies drawn from what pathologists look for."""

from glomflow.cohort.phantom.plan import PatientPlan, PhantomPlan, plan_phantom
from glomflow.cohort.phantom.write import write_phantom_images, write_phantom_sheets

__all__ = ["PatientPlan", "PhantomPlan", "plan_phantom", "write_phantom_images", "write_phantom_sheets"]
