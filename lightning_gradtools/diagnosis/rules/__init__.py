"""Rules, one pathology a file: a history of observations in, findings out."""
