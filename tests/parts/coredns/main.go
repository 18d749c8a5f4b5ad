// CoreDNS with the plugins that a cluster's DNS has.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
)

// In the order in which a query passes them.
func init() {
	dnsserver.Directives = []string{
		"bind", "ready", "errors", "log", "loadbalance", "kubernetes",
	}
}

func main() {
	coremain.Run()
}
