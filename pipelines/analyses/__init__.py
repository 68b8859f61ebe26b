"""The analyses of a store: each turns blocks into directions and a fitted model.

What is computed stands in `transforms`; here is what it is computed over (which rows, which labels)
and what the resulting directions are called. Names are ``<method>.<target>``: ``mean.happiness``,
``svm.glasses``, ``hosvd.happiness``, ``linear.yaw``, ``pca.000``.
"""
