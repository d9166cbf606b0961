"""Clustering of patch features into tokens: one interface, six methods (``ClusteringConfig.method``).

``stick_breaking``, ``dpc_knn`` and ``cosine_graph`` let the picture decide how many tokens it gets; ``grid``, ``kmeans`` and
``resampler`` are controls that give every picture the same number, so that tokenizers can be compared at one budget.
"""

from setok.models.clustering.clusters import Clusters, concatenate, one_hot
from setok.models.clustering.cosine_graph import cosine_graph
from setok.models.clustering.density_peaks import density_peak_scores, squared_distances
from setok.models.clustering.dpc_knn import dpc_knn
from setok.models.clustering.fixed import grid_cells, kmeans
from setok.models.clustering.interface import cluster, cluster_distances
from setok.models.clustering.many import DistinctClusters, cluster_many
from setok.models.clustering.resampler import Resampler
from setok.models.clustering.stick_breaking import stick_breaking

__all__ = [
    "Clusters",
    "DistinctClusters",
    "Resampler",
    "cluster",
    "cluster_distances",
    "cluster_many",
    "concatenate",
    "cosine_graph",
    "density_peak_scores",
    "dpc_knn",
    "grid_cells",
    "kmeans",
    "one_hot",
    "squared_distances",
    "stick_breaking",
]
