"""One file a pretraining objective; `registry` finds them, `objective` says what one is, `common/` holds what several share."""
