# Make terms.json and the tables in terms/ : Rscript make_terms.R [OUTPUT]
#
# Tables of terms (lmerTest, pbkrtest), likelihood-ratio tests of random effects (lmerTest's ranova), least-squares means
# (lmerTest), tests of several coefficients with a cluster-robust covariance (clubSandwich) and pbkrtest's comparisons of
# two models, for data that these packages and nlme ship. No number is rounded: 15 significant digits.

suppressMessages({
  library(lmerTest)
  library(pbkrtest)
  library(clubSandwich)
  library(jsonlite)
})
given <- commandArgs(trailingOnly = TRUE)
output <- if (length(given)) given[1] else "."
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5), check.conv.grad = "ignore")

plain <- function(data, factors, numbers) {
  # Factors without order, levels in byte order; complete rows only.
  out <- lapply(factors, function(name) {
    text <- as.character(data[[name]])
    factor(text, levels = sort(unique(text), method = "radix"))
  })
  out <- c(out, lapply(numbers, function(name) as.numeric(data[[name]])))
  names(out) <- gsub(".", "_", c(factors, numbers), fixed = TRUE)
  stats::na.omit(as.data.frame(out))
}

oats <- as.data.frame(nlme::Oats)
oats$nitrogen <- sprintf("%.1f", oats$nitro)
tables <- list(
  TVbo = plain(TVbo, c("Assessor", "TVset", "Picture"), c("Coloursaturation", "Sharpnessofmovement")),
  carrots = plain(carrots, c("Consumer", "Product", "Homesize"), c("Preference", "sens1", "sens2")),
  ham = plain(ham, c("Consumer", "Product", "Information", "Gender"), c("Informed.liking", "Age")),
  beets = plain(beets, c("block", "harvest", "sow"), c("sugpct", "yield")),
  Oats = plain(oats, c("Block", "Variety", "nitrogen"), c("yield")),
  Machines = plain(as.data.frame(nlme::Machines), c("Worker", "Machine"), "score")
)

# fixed and random parts; for each row of ranova the random part without it; variables of means; factor of clusters
models <- list(
  list(
    data = "TVbo", id = "colour", fixed = "Coloursaturation ~ TVset * Picture",
    random = "(1 | Assessor) + (1 | Assessor:TVset)",
    reduced = c("(1 | Assessor)" = "(1 | Assessor:TVset)", "(1 | Assessor:TVset)" = "(1 | Assessor)"),
    means = c("TVset", "Picture"), cluster = "Assessor"
  ),
  list(
    data = "TVbo", id = "movement", fixed = "Sharpnessofmovement ~ TVset * Picture",
    random = "(1 | Assessor) + (1 | Assessor:TVset) + (1 | Assessor:Picture) + (1 | Assessor:Picture:TVset)",
    reduced = c(
      "(1 | Assessor)" = "(1 | Assessor:TVset) + (1 | Assessor:Picture) + (1 | Assessor:Picture:TVset)",
      "(1 | Assessor:TVset)" = "(1 | Assessor) + (1 | Assessor:Picture) + (1 | Assessor:Picture:TVset)",
      "(1 | Assessor:Picture)" = "(1 | Assessor) + (1 | Assessor:TVset) + (1 | Assessor:Picture:TVset)",
      "(1 | Assessor:Picture:TVset)" = "(1 | Assessor) + (1 | Assessor:TVset) + (1 | Assessor:Picture)"
    ),
    means = c("TVset", "Picture"), cluster = NA
  ),
  list(
    data = "carrots", id = "slope", fixed = "Preference ~ sens2 * Homesize", random = "(sens2 | Consumer)",
    reduced = c("sens2 in (sens2 | Consumer)" = "(1 | Consumer)"), means = "Homesize", cluster = "Consumer"
  ),
  list(
    data = "carrots", id = "crossed", fixed = "Preference ~ sens1 + sens2 + Homesize",
    random = "(sens2 | Consumer) + (1 | Product)",
    reduced = c(
      "sens2 in (sens2 | Consumer)" = "(1 | Consumer) + (1 | Product)", "(1 | Product)" = "(sens2 | Consumer)"
    ),
    means = "Homesize", cluster = NA
  ),
  list(
    data = "ham", id = "interactions", fixed = "Informed_liking ~ Product * Information * Gender + Age",
    random = "(1 | Consumer) + (1 | Consumer:Product) + (1 | Consumer:Information)",
    reduced = c(
      "(1 | Consumer)" = "(1 | Consumer:Product) + (1 | Consumer:Information)",
      "(1 | Consumer:Product)" = "(1 | Consumer) + (1 | Consumer:Information)",
      "(1 | Consumer:Information)" = "(1 | Consumer) + (1 | Consumer:Product)"
    ),
    means = c("Product", "Information"), cluster = NA
  ),
  list(
    data = "Oats", id = "split_plot", fixed = "yield ~ Variety * nitrogen", random = "(1 | Block/Variety)",
    reduced = c("(1 | Variety:Block)" = "(1 | Block)", "(1 | Block)" = "(1 | Block:Variety)"),
    means = c("Variety", "nitrogen"), cluster = "Block"
  ),
  list(
    data = "Machines", id = "interaction", fixed = "score ~ Machine", random = "(1 | Worker/Machine)",
    reduced = c("(1 | Machine:Worker)" = "(1 | Worker)", "(1 | Worker)" = "(1 | Worker:Machine)"),
    means = "Machine", cluster = "Worker"
  ),
  list(
    data = "beets", id = "split_plot", fixed = "sugpct ~ block + sow + harvest", random = "(1 | block:harvest)",
    reduced = c("(1 | block:harvest)" = NA), means = c("sow", "harvest"), cluster = NA
  )
)
methods <- c(satterthwaite = "Satterthwaite", kenward_roger = "Kenward-Roger")

columns <- function(table, names) {
  table <- as.data.frame(table)
  stats::setNames(lapply(names, function(name) table[[name]]), names(names))
}

tests_of_terms <- function(fit) {
  out <- list()
  names <- c(
    sum_sq = "Sum Sq", mean_sq = "Mean Sq", num_df = "NumDF", den_df = "DenDF", F = "F value", p = "Pr(>F)"
  )
  for (type in c("I", "II", "III")) {
    for (method in names(methods)) {
      table <- anova(fit, type = type, ddf = methods[[method]])
      out[[type]][[method]] <- c(list(term = rownames(table)), columns(table, names))
    }
  }
  out
}

means_of <- function(fit, variables) {
  names <- c(
    estimate = "Estimate", se = "Std. Error", df = "df", t = "t value", lower = "lower", upper = "upper", p = "Pr(>|t|)"
  )
  out <- list()
  for (variable in variables) {
    for (method in names(methods)) {
      for (pairs in c(FALSE, TRUE)) {
        table <- ls_means(fit, which = variable, ddf = methods[[method]], pairwise = pairs)
        out[[variable]][[method]][[if (pairs) "pairs" else "means"]] <- columns(table, names)
      }
    }
  }
  out
}

robust_tests <- function(fit, data, cluster) {
  V <- vcovCR(fit, cluster = data[[cluster]], type = "CR2")
  assigned <- attr(model.matrix(fit), "assign")
  terms <- attr(terms(fit), "term.labels")
  few <- tabulate(assigned, length(terms)) < nlevels(data[[cluster]])  # else the covariance is singular
  out <- lapply(which(few), function(k) {
    found <- Wald_test(fit, constraints = constrain_zero(which(assigned == k)), vcov = V, test = "HTZ")
    list(term = terms[k], statistic = found$Fstat, df_num = found$df_num, df_den = found$df_denom, p = found$p_val)
  })
  list(cluster = cluster, tests = out)
}

one <- function(model) {
  data <- tables[[model$data]]
  text <- paste(model$fixed, "+", model$random)
  # the call must hold the formula and the data by name, for update() in other packages
  fit <- eval(bquote(lmer(.(as.formula(text)), data = tables[[.(model$data)]], control = control)))
  random <- ranova(fit, reduce.terms = TRUE)
  dropped <- rownames(random)[-1]
  stopifnot(setequal(dropped, names(model$reduced)))
  reduced <- unname(model$reduced[dropped])
  list(
    dataset = model$data, id = model$id, formula = text, criterion = REMLcrit(fit), sigma = sigma(fit),
    anova = tests_of_terms(fit), means = means_of(fit, model$means),
    ranova = list(
      dropped = I(dropped), formula = I(ifelse(is.na(reduced), model$fixed, paste(model$fixed, "+", reduced))),
      statistic = I(random$LRT[-1]), df = I(random$Df[-1]), p_naive = I(random[["Pr(>Chisq)"]][-1])
    ),
    robust = if (is.na(model$cluster)) NULL else robust_tests(fit, data, model$cluster)
  )
}

comparisons <- function() {
  # pbkrtest's own example: sugar in beets
  large <- lmer(sugpct ~ block + sow + harvest + (1 | block:harvest), tables$beets, REML = FALSE, control = control)
  smaller <- list(harvest = update(large, . ~ . - harvest), sow = update(large, . ~ . - sow))
  lapply(stats::setNames(nm = names(smaller)), function(term) {
    exact <- KRmodcomp(large, smaller[[term]])$test["Ftest", ]
    boot <- PBmodcomp(large, smaller[[term]], nsim = 4000, seed = 1)
    list(
      F = exact$stat, num_df = exact$ndf, den_df = exact$ddf, scaling = exact$F.scaling, p = exact$p.value,
      lrt = boot$LRTstat[["tobs"]], bootstrap_p = boot$test["PBtest", "p.value"], samples = sum(boot$samples[["npos"]])
    )
  })
}

dir.create(file.path(output, "terms"), showWarnings = FALSE)
for (name in setdiff(names(tables), c("Oats", "Machines"))) {  # those are in printed/
  path <- file.path(output, "terms", paste0(name, ".csv"))
  write.csv(format(tables[[name]], digits = 15, trim = TRUE, scientific = FALSE), path, row.names = FALSE, quote = FALSE)
}
packages <- c("lme4", "lmerTest", "pbkrtest", "clubSandwich", "nlme")
versions <- c(R = as.character(getRversion()), sapply(packages, function(name) as.character(packageVersion(name))))
result <- list(
  versions = as.list(versions),
  factors = lapply(tables, function(table) names(table)[sapply(table, is.factor)]),
  models = lapply(models, one),
  comparisons = comparisons()
)
writeLines(toJSON(result, digits = NA, auto_unbox = TRUE, na = "null", null = "null"), file.path(output, "terms.json"))
