import faiss

from .strategy import Strategy


class KMeansSamplingGPU(Strategy):
    def query(self, n):
        return faiss.Kmeans(d=1, k=n)
