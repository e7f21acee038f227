"""Methods on the same splits of the same data: paired differences, tests of them, and pages that show them (`moleblend compare`)."""
