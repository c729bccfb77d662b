"""Labels of annotation tools: one reader per format, plain data classes between, and the dataset made of them."""
