from .strategy import Strategy


class WAAL(Strategy):
    def query(self, n):
        return self.net.fea(n)
