// Kubernetes' own end-to-end tests of networks, as a program that tells on its standard output, in lines of
// JSON between all else, what becomes of each.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"k8s.io/component-base/logs"

	// What happens before and after all tests.
	_ "k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	manifests "k8s.io/kubernetes/test/e2e/testing-manifests"

	// The tests, and the words in brackets in their names.
	_ "k8s.io/kubernetes/test/e2e/feature"
	_ "k8s.io/kubernetes/test/e2e/network"

	// What a failed test tells of the cluster, and how values look in it.
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	_ "k8s.io/kubernetes/test/utils/format"
)

// What the lines begin with that are for a program.
const mark = "@test "

// What happens to a test.
type event struct {
	Name string `json:"name"`
	// As ginkgo calls it; "chosen" and "begun" before there is anything to call.
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
	Message string  `json:"message"`
}

func (e event) tell() {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	// Ginkgo may have left a line without its end.
	fmt.Printf("\n%s%s\n", mark, line)
}

// What ginkgo is to tell failures.
type result struct{ failed bool }

func (r *result) Fail() { r.failed = true }

func main() {
	list := flag.Bool("list", false, "Tell which tests are chosen, and do nothing else.")
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if arguments := flag.Args(); len(arguments) > 0 {
		fmt.Fprintf(os.Stderr, "arguments that are no flags: %q\n", arguments)
		os.Exit(2)
	}
	testfiles.AddFileSource(manifests.GetE2ETestingManifestsFS())
	framework.AfterReadingAllFlags(&framework.TestContext)

	suite, reporter := framework.CreateGinkgoConfig()
	if *list {
		for _, test := range ginkgo.PreviewSpecs("list", suite, reporter).SpecReports {
			// All that happens around tests has a report, too.
			if test.LeafNodeType.Is(types.NodeTypeIt) && test.State.Is(types.SpecStatePassed) {
				event{Name: test.FullText(), State: "chosen"}.tell()
			}
		}
		return
	}
	// Those that are not chosen are told to these functions, too.
	begun := false
	ginkgo.ReportBeforeEach(func(test ginkgo.SpecReport) {
		begun = !test.State.Is(types.SpecStateSkipped | types.SpecStatePending)
		if begun {
			event{Name: test.FullText(), State: "begun"}.tell()
		}
	})
	ginkgo.ReportAfterEach(func(test ginkgo.SpecReport) {
		if begun {
			event{
				Name:    test.FullText(),
				State:   test.State.String(),
				Seconds: test.RunTime.Seconds(),
				Message: test.Failure.Message,
			}.tell()
		}
	})
	logs.InitLogs()
	gomega.RegisterFailHandler(framework.Fail)
	var result result
	ginkgo.RunSpecs(&result, "Kubernetes' tests of networks", suite, reporter)
	logs.FlushLogs()
	if result.failed {
		os.Exit(1)
	}
}
