"""The digit classifier as a LightningModule."""
