"""A pretrained model at work: encode, extract, predict, and the job that does a whole corpus. Imports hub and what lies
below it; never training."""
