"""From the trials of a batch to samples with advantages: pure functions of records. No torch."""
