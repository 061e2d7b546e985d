package telemetry

import "github.com/prometheus/client_golang/prometheus"

var (
	storageOperations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "token_storage_operations_total",
		Help: "Operations of the storage of shared tokens, by result.",
	}, []string{"operation", "result"})

	storageDegradedDesc = prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "token_storage_degraded"),
		"Whether the storage of shared tokens fails and is left alone. Absent without share_tokens.", nil, nil)
)

// CountStorage counts an operation of the storage of shared tokens.
func CountStorage(operation, result string) {
	storageOperations.WithLabelValues(operation, result).Inc()
}

// degradedCollector collects whether the running config's storage of shared tokens fails.
type degradedCollector struct {
	degraded func() (degraded, shares bool)
}

// Describe implements prometheus.Collector.
func (degradedCollector) Describe(ch chan<- *prometheus.Desc) { ch <- storageDegradedDesc }

// Collect implements prometheus.Collector.
func (c degradedCollector) Collect(ch chan<- prometheus.Metric) {
	degraded, shares := c.degraded()
	if !shares {
		return
	}
	value := 0.0
	if degraded {
		value = 1
	}
	ch <- prometheus.MustNewConstMetric(storageDegradedDesc, prometheus.GaugeValue, value)
}
