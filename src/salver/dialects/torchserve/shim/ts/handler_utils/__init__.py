"""What do handlers use beside their base class: timing, pieces of an answer, batches in a pipeline?"""
