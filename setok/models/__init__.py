"""Networks: plain torch modules without a launcher, a device or a data set."""
