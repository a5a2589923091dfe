"""One file per operator: a frozen Spec (all checks, shapes, MACs) and an obviously right NumPy reference().

Every array that a reference takes or gives has one leading *run* axis of N independent runs of the network; the
shapes in a Spec are those of one run. Weights and biases have no run axis.
"""
