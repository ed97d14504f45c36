"""Support vector machines of scikit-learn with an RBF kernel, several on the same rows, and their margins in numpy."""

from dataclasses import dataclass

import numpy as np

SVM_C = 4.0
CACHE_MB = 1000  # of libsvm
KERNEL_BYTES = 2 << 30  # the largest kernel that is computed as a whole, that of 16,384 rows


@dataclass(frozen=True)
class RbfKernel:
    """The RBF kernel of the training rows x, standardised float64 (n, F).

    matrix: float64 (n, n), computed once for all fits, many times as fast as libsvm computes it entry by entry; None if
    it takes more than `KERNEL_BYTES`, and libsvm does that.
    """

    x: np.ndarray
    gamma: float
    matrix: np.ndarray | None

    @classmethod
    def of(cls, x: np.ndarray) -> "RbfKernel":
        gamma = 1 / (x.shape[1] * (x.var() or 1.0))  # what scikit-learn calls "scale"
        return cls(x, gamma, rbf_kernel(x, x, gamma) if 8 * len(x) ** 2 <= KERNEL_BYTES else None)

    def between(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the kernel of these rows and those in the columns, float64 (r, c)."""
        if self.matrix is None:
            return rbf_kernel(self.x[rows], self.x[columns], self.gamma)
        return self.matrix if len(rows) == len(columns) == len(self.x) else self.matrix[np.ix_(rows, columns)]

    def fit(self, estimator: type, rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
        """Fit SVC or SVR on these rows; return the dual coefficients (r,), 0 where there is no support, and intercept.

        A class that is there alone has its sign, 1 or -1, as its margin everywhere.
        """
        dual = np.zeros(len(rows))
        if (target == target[0]).all():
            return dual, float(target[0])
        if self.matrix is None:
            model = estimator(C=SVM_C, kernel="rbf", gamma=self.gamma, cache_size=CACHE_MB).fit(self.x[rows], target)
        else:
            model = estimator(C=SVM_C, kernel="precomputed", cache_size=CACHE_MB).fit(self.between(rows, rows), target)
        dual[model.support_] = model.dual_coef_[0]
        return dual, float(model.intercept_[0])

    def state(self, estimator: type, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Fit an SVM on all rows for each column of targets (n, M)."""
        rows = np.arange(len(self.x))
        duals, intercepts = zip(*(self.fit(estimator, rows, target) for target in targets.T), strict=True)
        dual = np.stack(duals, axis=1)
        used = dual.any(axis=1)
        return {
            "support_vectors": self.x[used].astype(np.float32),
            "dual_coef": dual[used],
            "intercept": np.array(intercepts),
            "gamma": np.array([self.gamma]),
        }


def rbf_kernel(x: np.ndarray, vectors: np.ndarray, gamma: float) -> np.ndarray:
    """Return exp(-gamma d^2), float64 (n, m), of x (n, F) and vectors (m, F)."""
    kernel = x @ vectors.T
    kernel *= -2
    kernel += np.square(x).sum(axis=1)[:, None]
    kernel += np.square(vectors).sum(axis=1)
    np.maximum(kernel, 0, out=kernel)
    kernel *= -gamma
    return np.exp(kernel, out=kernel)


def svm_margins(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the margins (n, M) of standardised features float64 (n, F)."""
    kernel = rbf_kernel(x, state["support_vectors"].astype(np.float64), state["gamma"][0])
    return kernel @ state["dual_coef"] + state["intercept"]
