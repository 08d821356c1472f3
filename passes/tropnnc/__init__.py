"""TropNNC: fewer neurons or channels in hidden ReLU layers of float networks, by clustering, without data or training.

After "TropNNC: Structured Neural Network Compression Using Tropical Geometry" (Fotopoulos, Maragos, Misiakos). A hidden
layer computes sums of ReLUs, differences of tropical polynomials whose Newton polytopes are zonotopes; a smaller layer
with nearly the same zonotopes computes nearly the same function (its Theorem 11).
"""
