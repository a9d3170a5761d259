# Make error_structures.json, beside this script, with R's nlme: Rscript make_error_structures.R
# Level-1 variances and correlations together, continuous-time AR(1), and errors below two nested factors.
library(nlme)
library(jsonlite)

here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
table_of <- function(name, factors) {
  data <- read.csv(file.path(here, "reference", paste0(name, ".csv")), stringsAsFactors = FALSE)
  for (column in factors) data[[column]] <- factor(data[[column]], levels = sort(unique(data[[column]]), method = "radix"))
  data
}
orthodont <- table_of("Orthodont", c("Subject", "Sex"))
ovary <- table_of("Ovary", "Mare")
bodyweight <- table_of("BodyWeight", c("Rat", "Diet"))
dialyzer <- table_of("Dialyzer", c("Subject", "QB"))
alfalfa <- table_of("Alfalfa", c("Variety", "Date", "Block"))

tight <- lmeControl(maxIter = 500, msMaxIter = 2000, niterEM = 200, tolerance = 1e-13, msTol = 1e-13)
loose <- lmeControl(maxIter = 500, msMaxIter = 2000, opt = "optim", tolerance = 1e-12, msTol = 1e-13)
tight_gls <- glsControl(maxIter = 500, msMaxIter = 2000, tolerance = 1e-13, msTol = 1e-13)

best <- function(fits) {
  fits <- Filter(Negate(is.null), fits)
  fits[[which.max(sapply(fits, logLik))]]
}
attempt <- function(expr) tryCatch(suppressWarnings(expr), error = function(e) NULL)

fit_one <- function(id, data, fixed, random, correlation, weights, reml) {
  method <- if (reml) "REML" else "ML"
  if (is.null(random)) {
    fit <- best(list(attempt(gls(fixed, data, correlation = correlation, weights = weights, method = method, control = tight_gls))))
    beta <- coef(fit)
  } else {
    fit <- best(lapply(list(tight, loose), function(control) {
      attempt(lme(fixed, data, random, correlation = correlation, weights = weights, method = method, control = control))
    }))
    beta <- fixef(fit)
  }
  structure <- fit$modelStruct
  list(
    id = paste0(id, if (reml) ".REML" else ".ML"), reml = reml,
    criterion = -2 * as.numeric(logLik(fit)), df = attr(logLik(fit), "df"), sigma = fit$sigma,
    fixef = as.numeric(beta), se = as.numeric(sqrt(diag(vcov(fit)))),
    correlation = if (is.null(structure$corStruct)) NULL else as.numeric(coef(structure$corStruct, unconstrained = FALSE)),
    weights = if (is.null(structure$varStruct)) NULL else as.numeric(coef(structure$varStruct, unconstrained = FALSE)),
    strata = if (inherits(structure$varStruct, "varIdent")) names(coef(structure$varStruct, unconstrained = FALSE)) else NULL
  )
}

out <- list()
add <- function(...) for (reml in c(TRUE, FALSE)) out[[length(out) + 1]] <<- fit_one(..., reml = reml)

growth <- distance ~ age * Sex
add("Orthodont:ar1", orthodont, growth, ~ 1 | Subject, corAR1(form = ~ 1 | Subject), NULL)
add("Orthodont:ar1*sex", orthodont, growth, ~ 1 | Subject, corAR1(form = ~ 1 | Subject), varIdent(form = ~ 1 | Sex))
add("Orthodont:ar1*age", orthodont, growth, NULL, corAR1(form = ~ 1 | Subject), varIdent(form = ~ 1 | age))
add("Orthodont:cs*age", orthodont, growth, NULL, corCompSymm(form = ~ 1 | Subject), varIdent(form = ~ 1 | age))
cycle <- follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time)
add("Ovary:car1", ovary, cycle, ~ 1 | Mare, corCAR1(form = ~ Time | Mare), NULL)
add("Ovary:ar1*exp", ovary, cycle, ~ 1 | Mare, corAR1(form = ~ 1 | Mare), varExp(form = ~ Time))
weight <- weight ~ Time * Diet
add("BodyWeight:power", bodyweight, weight, ~ Time | Rat, NULL, varPower(form = ~ Time))
add("BodyWeight:exp", bodyweight, weight, ~ Time | Rat, corExp(form = ~ Time | Rat), NULL)
add("BodyWeight:exp*power", bodyweight, weight, ~ Time | Rat, corExp(form = ~ Time | Rat), varPower(form = ~ Time))
rate <- rate ~ (pressure + I(pressure^2) + I(pressure^3) + I(pressure^4)) * QB
add("Dialyzer:ar1*power", dialyzer, rate, NULL, corAR1(form = ~ 1 | Subject), varPower(form = ~ pressure))
add("Dialyzer:ar1*power_ri", dialyzer, rate, ~ 1 | Subject, corAR1(form = ~ 1 | Subject), varPower(form = ~ pressure))
yield <- Yield ~ Date * Variety
add("Alfalfa:date", alfalfa, yield, ~ 1 | Block / Variety, NULL, varIdent(form = ~ 1 | Date))
add("Alfalfa:ar1*date", alfalfa, yield, ~ 1 | Block / Variety, corAR1(form = ~ 1 | Block / Variety), varIdent(form = ~ 1 | Date))

versions <- list(R = R.version.string, nlme = as.character(packageVersion("nlme")))
text <- toJSON(list(versions = versions, models = out), digits = NA, auto_unbox = TRUE, pretty = 1, null = "null")
writeLines(text, file.path(here, "error_structures.json"))
