# Intervals of lmerTest, pbkrtest and lme4 for the data sets that coverage.py writes; coverage.py runs this:
#     Rscript coverage.R DATA.csv RESULT.csv PROFILES
# DATA has columns design, replicate, slopes, y, w, x, g. RESULT has a row for each interval: design, replicate, method,
# parameter, df, lower, upper, note (error or warnings). The first PROFILES replicates of each design are profiled.

suppressMessages({
  library(lmerTest)
  library(pbkrtest)
})
arguments <- commandArgs(trailingOnly = TRUE)
data <- read.csv(arguments[1])
profiles <- as.integer(arguments[3])
data$g <- factor(data$g)

caught <- function(expression) {
  # The value, or NULL, and what was said on the way.
  said <- character()
  value <- withCallingHandlers(
    tryCatch(expression, error = function(e) {
      said <<- c(said, paste("error:", conditionMessage(e)))
      NULL
    }),
    warning = function(w) {
      said <<- c(said, paste("warning:", conditionMessage(w)))
      invokeRestart("muffleWarning")
    },
    message = function(m) invokeRestart("muffleMessage")
  )
  list(value = value, note = gsub("[\r\n\",]+", " ", paste(unique(said), collapse = "; ")))
}

coefficients <- function(fit, method) {
  found <- caught(coef(summary(fit, ddf = method)))
  if (is.null(found$value)) {
    return(data.frame(parameter = names(fixef(fit)), df = NA, lower = NA, upper = NA, note = found$note))
  }
  table <- found$value
  half <- qt(0.975, table[, "df"]) * table[, "Std. Error"]
  data.frame(
    parameter = rownames(table), df = table[, "df"], lower = table[, "Estimate"] - half,
    upper = table[, "Estimate"] + half, note = found$note
  )
}

deviations <- function(fit, names) {
  # lme4's profiles are those of the likelihood (ML), whatever the fit
  found <- caught(confint(fit, parm = "theta_", method = "profile", oldNames = FALSE, quiet = TRUE))
  limits <- found$value
  if (is.null(limits) || nrow(limits) != length(names)) {
    limits <- matrix(NA_real_, length(names), 2)
  }
  data.frame(parameter = names, df = NA, lower = limits[, 1], upper = limits[, 2], note = found$note)
}

one <- function(rows) {
  slopes <- rows$slopes[1] == 1
  formula <- if (slopes) y ~ w + x + (x | g) else y ~ w + x + (1 | g)
  parameters <- if (slopes) c("sd(Intercept)", "cor", "sd(x)", "sigma") else c("sd(Intercept)", "sigma")
  fit <- caught(lmer(formula, rows))
  if (is.null(fit$value)) stop("lmer fails: ", fit$note)
  fit <- fit$value
  out <- rbind(
    cbind(method = "satterthwaite", coefficients(fit, "Satterthwaite")),
    cbind(method = "kenward-roger", coefficients(fit, "Kenward-Roger"))
  )
  if (rows$replicate[1] < profiles) {
    out <- rbind(out, cbind(method = "profile (ML)", deviations(fit, parameters)))
  }
  out$parameter[out$parameter == "(Intercept)"] <- "Intercept"
  cbind(design = rows$design[1], replicate = rows$replicate[1], out)
}

result <- do.call(rbind, lapply(split(data, list(data$replicate, data$design), drop = TRUE), function(rows) {
  rows$g <- droplevels(rows$g)
  one(rows)
}))
write.csv(format(result, digits = 15, trim = TRUE), arguments[2], row.names = FALSE)
versions <- sapply(c("lme4", "lmerTest", "pbkrtest"), function(name) as.character(packageVersion(name)))
cat(paste0("R ", getRversion(), ", ", paste(names(versions), versions, collapse = ", ")), "\n")
