package federated

import (
	"fmt"
	"math"

	"penstock/consumers/federated/strategies"
)

// SumExact is a Model.Sum whose result does not depend on the order of the updates, nor
// on how they lie in partitions: each product of a weight and a parameter is rounded to
// a fixed point, and those are added as integers of 64 bits. The mean is off by at most
// 2^-25 a parameter, where every weight is at least 1.
const SumExact = "exact"

// exactUnit is how many steps of the fixed point make 1.
const exactUnit = 1 << 24

// exactLimit is how far from zero one product may be, so that those of all clients
// cannot leave the range of an int64.
func exactLimit(clients int) float64 {
	return math.Ldexp(1, 62) / exactUnit / float64(clients)
}

// foldExact adds an update, times its weight.
func foldExact(sum []int64, values []float32, weight float64) {
	for i, v := range values {
		sum[i] += int64(math.RoundToEven(weight * float64(v) * exactUnit))
	}
}

// fitsExact says which value of an update would be out of range.
func fitsExact(values []float32, weight float64, clients int) error {
	limit := exactLimit(clients)
	for i, v := range values {
		if p := math.Abs(weight * float64(v)); !(p < limit) {
			return fmt.Errorf("expected parameters whose product with the weight %v is below %v, for an exact sum over %d clients, found %v in element %d", weight, limit, clients, v, i)
		}
	}
	return nil
}

// checkSum says what keeps a sum of that kind from being what it promises.
func checkSum(sum string, s strategies.Strategy) error {
	switch {
	case sum != "" && sum != SumExact:
		return fmt.Errorf("expected no kind of sum, or %q, found %q", SumExact, sum)
	case sum == SumExact && !weighsAlike(s):
		return fmt.Errorf("an exact sum needs a strategy that makes the next model of the mean alone, as fedavg, fedavgm, fedadam and fedyogi do, found %s", s)
	}
	return nil
}
