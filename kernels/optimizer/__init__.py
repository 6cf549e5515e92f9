"""Optimizer updates: p and its state, lists of arrays, are changed in place, in one pass over memory; p is returned.

The rules are PyTorch's, with weight decay as an L2 term: g <- g + weight_decay p. Then, at step t = 1, 2, ...

    sgd      b <- momentum b + g (b = 0 at first)                 p <- p - lr b
    rmsprop  s <- alpha s + (1 - alpha) g^2                       p <- p - lr g / (sqrt s + eps)
    adam     m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2
             p <- p - lr / (1 - beta1^t) m / (sqrt v / sqrt(1 - beta2^t) + eps)

One call updates all parameters: p, g and each state are lists with an array for each parameter, `step` is a list of
numbers. p and state are C-contiguous and writable, and no two of them share memory; g[i] is any array of
p[i]'s shape. Sources: Tieleman and Hinton 2012 (RMSprop); Kingma and Ba, "Adam: a method for stochastic optimization",
2015; Arjovsky et al. 2017 (clipping).
"""
