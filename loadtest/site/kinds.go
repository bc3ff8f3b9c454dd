package site

import (
	"slices"

	"github.com/moorage-dev/moorage/loadtest/fault"
)

// Kinds lists the kinds of faults that a target can do, which its config tells
// before anything starts. Those of agents are their workers'.
func Kinds(cfg Config) (all []string) {
	var (
		throughKafka = cfg.System == Moorage || cfg.System == Relay
		gateways     = throughKafka && len(cfg.Gateways) == 0                            // that are started here
		brokers      = throughKafka && len(cfg.Kafka) == 0                               // the same
		apache       = brokers && (cfg.Local.Brokers == "1" || cfg.Local.Brokers == "3") // else the embedded one
	)
	if gateways || apache || cfg.System == NATS {
		all = append(all, fault.OnProcesses...)
	}
	if gateways && cfg.Old != "" {
		all = append(all, fault.Upgrade)
	}
	if gateways && cfg.Proxied {
		all = append(all, fault.OnLegs...)
		if !brokers { // others' clients are told its own addresses
			all = slices.DeleteFunc(all, func(k string) bool { return k == fault.SlowBroker })
		}
	}
	if cfg.Holes && (gateways || brokers) {
		all = append(all, fault.BlackHole)
	}
	if cfg.System != Moorage {
		return all
	}
	all = append(all, fault.AddPartitions)
	if brokers && !apache {
		all = append(all, fault.OnEmbedded...)
	}
	if apache {
		all = append(all, fault.Quota)
	}
	if apache && cfg.Small {
		all = append(all, fault.DiskFull)
	}
	return all
}
