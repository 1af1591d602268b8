"""What the tilts of each prompt's samples are: log Z, reward, divergences from the prior, and their variances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.groups import Groups


class PerPrompt(NamedTuple):
    """Five quantities of each prompt and beta, and the variances of their influence values [5, P, B]; ess [P, B]."""

    values: NDArray[np.float64]
    variances: NDArray[np.float64]
    ess: NDArray[np.float64]


def tilt(rewards: NDArray[np.float64], beta: NDArray[np.float64], groups: Groups, threads: int | None) -> PerPrompt:
    """Return log Z, reward, both KL and total variation of each prompt's tilts, less their bias of order 1/n."""
    shape, n = (len(groups.sizes), len(beta), -1), groups.sizes[:, None].astype(np.float64)
    highest, flat = _core.tilt_sums(rewards, beta, groups.offsets, threads)
    beyond = _core.tilt_excess(rewards, beta, groups.offsets, highest, flat, threads).reshape(shape)
    e, ed, ee, eed, eded = np.moveaxis(flat.reshape(shape), -1, 0)
    above, above_squared, weight_above = np.moveaxis(beyond, -1, 0) / [e, e * e / n, e]
    # Differences from the highest reward are what all is made of; u = w / Z, and v_d = d - E_target[d].
    mean_d, log_mean = ed / e, np.log(e / n)
    uu, uuv = n * ee / e**2, n * (eed - mean_d * ee) / e**2
    uuvv = np.maximum(n * (eded - 2 * mean_d * eed + mean_d**2 * ee) / e**2, 0.0)
    spread = np.maximum(uu - 1.0, 0.0)  # the variance of u
    log_z = highest[:, None] / beta + log_mean + spread / (2 * n)
    kl = mean_d / beta - log_mean + uuv / n / beta - spread / (2 * n)
    prior_d, prior_spread = _moments(rewards, highest, groups)
    # inf - inf: where a reward is -inf, KL(prior‖target) has no error. A variance beyond any number is infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        prior_kl = log_mean + spread / (2 * n) - prior_d / beta
        prior_kl_variance = spread + prior_spread / beta / beta - 2 * (mean_d - prior_d) / beta
    values = np.stack([log_z, highest[:, None] + mean_d + uuv / n, kl, prior_kl, above])
    variances = [
        spread,
        uuvv,
        uuvv / beta / beta - 2 * uuv / beta + spread,
        prior_kl_variance,
        above_squared - above**2 - 2 * weight_above * above_squared + weight_above**2 * spread,
    ]
    return PerPrompt(values, np.maximum(np.stack(variances), 0.0), e**2 / ee)


def _moments(
    rewards: NDArray[np.float64], highest: NDArray[np.float64], groups: Groups
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each prompt's differences from its highest reward, under the prior [P, 1]."""
    d = rewards - groups.spread(highest)
    mean = groups.means(d)
    with np.errstate(invalid="ignore"):  # -inf - -inf
        variance = groups.means((d - groups.spread(mean)) ** 2)
    return mean[:, None], variance[:, None]
