"""The biology: one file per module of the model, all behind the interface of `base.Module`."""
